"""Other people's samples and statistics, in the formats of published evaluators. What is read here runs nothing."""
