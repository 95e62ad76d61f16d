"""A first configuration: made from a look at a user's files, with comments, and a JSON schema for editors."""
