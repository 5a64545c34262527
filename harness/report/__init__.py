"""What the user reads. `text`: findings and tables. `progress`: the live display. `document`: the JSON form of a run."""
