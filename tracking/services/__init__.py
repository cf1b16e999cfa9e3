"""What can be asked of the service: one module a subject. A method checks, makes one transaction, and gives the result."""
