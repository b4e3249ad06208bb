"""The user's rows: found, read, shaped, selected and split. No torch in here."""
