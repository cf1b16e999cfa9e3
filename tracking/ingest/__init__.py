"""From a fix to a position: the filters, the pipeline, and the recorder that stores."""
