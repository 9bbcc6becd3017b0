"""The operator: tensors in, tensors out. No parameters, no modules."""
