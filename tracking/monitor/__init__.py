"""What vehicles do, as events: geofences, rules and silences, judged over what was published."""
