"""Everything that asks a teacher: translation, mining, annotation."""
