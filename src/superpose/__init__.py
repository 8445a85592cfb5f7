"""Thirty papers on in-context learning and efficient language models, on one foundation.

Public names live in their room, for example ``superpose.interpret.MixturePrompt``; importing this
package imports nothing heavy.
"""

__version__ = "0.1.0"
