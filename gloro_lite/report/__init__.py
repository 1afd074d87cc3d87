"""What the results chapters show: tables and figures of what is stored under `data/`, a module for each chapter.

Chapters call these and quote their numbers; nothing here trains or certifies. `runs` reads the stored runs, `methods` lists the
methods that they are of, `tables` writes Markdown.
"""
