"""The operations of the service, with one module for each subject.

A method checks its arguments, runs one transaction, and returns the result.
"""
