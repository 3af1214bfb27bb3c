"""The steps that bring a database's schema up to date, oldest first; `migrate` takes them.

A step that was released is never edited: databases out there have taken it. It uses no
table or type of this version, because those go on changing.
"""
