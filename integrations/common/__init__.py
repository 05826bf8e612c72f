"""What several integrations share. Needs none of their libraries."""
