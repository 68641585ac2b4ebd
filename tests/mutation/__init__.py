"""A mutation run: changes the code in one place, many times over, and asks whether a test notices."""
