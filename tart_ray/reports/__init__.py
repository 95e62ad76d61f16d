"""The report of a run: figures as numbers, the pictures drawn of them, and the page that shows both."""
