"""Going back: copies of all that training changes, kept once the steps after them have shown that they were sound."""
