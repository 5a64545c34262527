"""A family of one toy Op, small enough to plant every kind of defect in it."""
