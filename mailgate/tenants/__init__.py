"""Plans and subscriptions → entitlements. Pure: `now` is an argument."""
