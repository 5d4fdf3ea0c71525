"""What must hold in every run, one promise a file. Checkers watch; they never touch what they watch."""
