"""Other projects' trainers with the methods of this package, one folder for each project."""
