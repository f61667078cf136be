"""The only doors to names of other libraries that are private or break easily."""
