"""The executor protocol as the MIT-licensed SDK clients speak it. No Django in here."""
