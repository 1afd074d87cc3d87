"""Other ways to certify, a file each."""
