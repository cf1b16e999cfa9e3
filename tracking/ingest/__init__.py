"""From a fix to a stored position: intake, filters, pipeline, queue and recorder."""
