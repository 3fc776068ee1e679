"""Reading what strangers wrote so that it ends no process on which others wait, and takes no more than its share.

    safe_html            HTML made safe to show, at a bounded cost (html)
    Suspects             what ended a process that read it is tried in another first (suspects, trial)
    run / bound          a process that may take so much of the machine (limited)

How it is read is in `mailgate.messages`, which is pure.
"""
