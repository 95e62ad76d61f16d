"""What any output of any job holds, for a terminal: looked at through commits, told as lines, printed by `command`."""
