"""Who says what a picture shows: one module a kind of detector, each imported only where a recipe names it."""
