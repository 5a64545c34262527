"""What commands do that is too long for `cli`, which has their options and what they say to the user."""
