"""``python -m lit_memories``."""

from lit_memories.cli import main

if __name__ == "__main__":
    main()
