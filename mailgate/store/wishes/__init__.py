"""What the CRM wishes: the near side changes at once, and an operation for the mail server is written with it."""
