"""Other certified methods than GloRo Nets, to stand beside them: a file each, and a command for each that is trained."""
