"""See the package `toy`."""
