"""The machinery of tridiff; it knows no particular kernel."""
