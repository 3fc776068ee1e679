"""The only package that speaks SQL: schema, transactions, one module per aggregate, migrations, the store's own
check.
"""
