"""What is stored of a group of equal layers, and its refresh."""
