"""The composition root: the only place that knows every part and wires them together.

`core` is what every command needs and runs nothing; `application` adds what a serving process runs.
"""
