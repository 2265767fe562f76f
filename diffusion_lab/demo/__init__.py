"""A local page for one trained model. Knows no model: it serves what `commands/demo.py` computes.

Our own page and the standard library's server, not gradio or streamlit: those install some forty packages, and gradio's page loads
fonts and scripts from the network.
"""
