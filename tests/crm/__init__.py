"""The acceptance of the whole: a small CRM that knows only docs/ and HTTP, and a week with it on real mail servers."""
