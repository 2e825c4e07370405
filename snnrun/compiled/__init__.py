"""How loops are compiled, and the threads that run them."""
