"""Changes of the CRM on their way to the mail server: planned, journalled, sent, looked up when unanswered."""
