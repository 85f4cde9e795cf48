"""``python -m medvlmoe`` is the ``medvlmoe`` command."""

from medvlmoe.command_line import main

main()
