"""Face sets in the forms that people have, to the LMDB and the list that trainers read."""
