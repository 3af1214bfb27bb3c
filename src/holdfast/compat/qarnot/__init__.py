"""What Qarnot's own clients need: their paths, words and answers, over our services.

Source of the facts: the client's code, PyPI ``qarnot`` 2.23.0, and the vendor's guide.
"""
