"""Mutation testing: changes the code in one place at a time, and checks whether a test then fails."""
