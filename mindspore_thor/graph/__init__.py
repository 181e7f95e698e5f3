"""What MindSpore's compiler needs: shared cells, slices, tuples, what its messages mean."""
