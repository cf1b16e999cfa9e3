"""What several hubs on one database do together: one home for each vehicle, and each trip visible on all of them."""
