"""MedVLMoE: a medical vision-language mixture of experts, trained alone or across hospitals."""
