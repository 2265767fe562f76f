"""Reports on scores: tables, plots, a page, and files for papers. Reads run folders; only `drawing` imports torch.

A report reads only files, so runs without a sweep, or from somebody else, get the same report. Of `diffusion_lab.sweeps` it uses
only the rules by which a sweep decides.

make          a report in its folder
read          cells from run folders
choices       the axes of runs without a sweep
table         cells in rows, rows in groups that were measured alike
comparison    confidence intervals of differences
effects       the axes of a group: their values, and what each changes, averaged over the settings of the others
findings      comparisons of the values of each axis, and a sentence on each
decisions     what a sweep that stopped by a rule has decided
conclusions   all sentences, what is undecided, and what to do next
numbers       numbers and notes as text
panels        the content of plots as numbers
plots         the plots of a group of rows
model_plots   curves of models: losses during training, the bound by t
curves        measures against costs, and where two curves cross
figures       plots drawn with matplotlib, or as input of plotly
page          report.html
exports       csv, Markdown, LaTeX, and text in the terminal
sprites       small pictures of samples for the page
drawing       pictures of samples: grids, lines, slices, scatter, animation
"""
