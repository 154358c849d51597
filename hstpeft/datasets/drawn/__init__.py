"""Everything that is drawn: elements, scenes, and the folders and data sets made of them."""
