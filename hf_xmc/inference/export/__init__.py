"""A trained folder in the forms that other tools load."""
