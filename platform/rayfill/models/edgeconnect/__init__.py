"""EdgeConnect: edges first, then colours; its networks and what they are shown."""
