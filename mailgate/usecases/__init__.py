"""What people and programs can ask of the gateway, whichever way they ask: the HTTP interface and the pages call these.

A use case checks what its caller could not know, changes the store and tells the running synchronization. It knows
nothing of requests, answers or pages.
"""
