"""What goes over the wire, described: requests are checked by these, answers are tested by them."""
