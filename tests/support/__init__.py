"""What several rooms of the suite share: real data, correct encoders, planted faults."""
