"""How much the language of a document moves its rank."""
